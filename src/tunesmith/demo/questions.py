"""What people ask the sample shop, and the SQL that answers them: 28 intents, each in many wordings.

``{slots}`` are filled by `tunesmith.demo.shop`, with the same value in question and SQL. The wordings
under ``test`` are never trained on; they use words that training questions use too, in other sentences.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intent:
    """One kind of question. Wordings are separated by ``|`` and may run over lines."""

    sql: str
    train: str
    test: str

    def wordings(self, part: str) -> list[str]:
        """The wordings of ``train`` or ``test``, each on one line."""
        text = self.train if part == "train" else self.test
        return [" ".join(wording.split()) for wording in text.split("|")]


_OF_CUSTOMER = "orders JOIN customers ON customer_id = customers.id"
_OF_PRODUCT = "orders JOIN products ON product_id = products.id"

INTENTS = (
    Intent(
        "SELECT price FROM products WHERE name = '{product}'",
        """What is the price of the {product}? | How much does the {product} cost? | price of {product} |
        Please tell me the price of the {product}. | how much is the {product}? |
        What does a {product} cost? | What do you charge for the {product}? | {product} price please |
        What's the cost of the {product}? | I want to buy the {product}, what is its price? |
        How expensive is the {product}? | cost of {product}?""",
        """Could you tell me how much a {product} costs? | what's the price for the {product} |
        {product}: how much? | How much would I pay for the {product}?""",
    ),
    Intent(
        "SELECT stock FROM products WHERE name = '{product}'",
        """How many {product} are in stock? | stock of {product} |
        What is the stock level of the {product}? | How many of the {product} do we have left? |
        {product} stock? | Tell me how many {product} are left. |
        how much stock is there of the {product}? | What quantity of {product} is in stock right now? |
        Please check the stock for the {product}. |
        How many units of {product} do we still have in stock? |
        Is the {product} in stock, and how many? | units of {product} left in stock""",
        """what stock do we have of the {product}? | How many {product} do we have in stock? |
        stock level for {product} | Could you tell me how many units of {product} are left?""",
    ),
    Intent(
        "SELECT category FROM products WHERE name = '{product}'",
        """Which category is the {product} in? | What category does the {product} belong to? |
        category of {product} | What kind of product is the {product}? |
        Tell me the category of the {product}. | {product} category? |
        in which category do we list the {product}? | Under which category is the {product} sold? |
        Please find the category for the {product}. | The {product} is in what category? |
        Where does the {product} belong, by category? | what is the {product}'s category""",
        """what category is the {product}? | Could you tell me which category the {product} belongs to? |
        category for {product} | To which category does the {product} belong?""",
    ),
    Intent(
        "SELECT name FROM products WHERE category = '{category}'",
        """List all {category} products. | Which products are in the {category} category? |
        show {category} products | What products do we sell in {category}? |
        Give me the names of all {category} products. | names of the products in {category} |
        What do we have in the {category} category? | all products in {category} |
        Please list everything in {category}. | which {category} products are there? |
        Show me every product in the {category} category. | What is there to buy in {category}?""",
        """What {category} products do we have? | list the products in the {category} category |
        Please show me all the {category} products. | Which products do we sell in {category}?""",
    ),
    Intent(
        "SELECT COUNT(*) FROM products WHERE category = '{category}'",
        """How many products are in the {category} category? | number of {category} products |
        count {category} products | How many {category} products do we sell? |
        What is the number of products in {category}? |
        how many different products are there in {category}? |
        Please count the products in the {category} category. | Count of products in {category}? |
        Tell me how many {category} products there are. | In {category}, how many products do we have? |
        how many products does the {category} category have |
        Give me the number of products in the {category} category.""",
        """How many {category} products are there? | count the products in {category} |
        What is the number of {category} products? |
        Could you tell me how many products we have in {category}?""",
    ),
    Intent(
        "SELECT AVG(price) FROM products WHERE category = '{category}'",
        """What is the average price of {category} products? | average price in {category} |
        mean price of {category} products | How much does a {category} product cost on average? |
        What do {category} products cost on average? |
        Give me the average price in the {category} category. | avg price for {category} |
        Please work out the mean price in {category}. |
        On average, how expensive are {category} products? |
        what's the average cost of products in {category}? |
        Tell me the average price for products in {category}. | average {category} price""",
        """What is the mean price in the {category} category? | average cost of {category} products |
        On average, what do products in {category} cost? |
        Could you give me the average price for {category} products?""",
    ),
    Intent(
        "SELECT name FROM products WHERE category = '{category}' ORDER BY price DESC LIMIT 1",
        """What is the most expensive {category} product? | most expensive product in {category} |
        priciest {category} product | Which {category} product has the highest price? |
        Which product in {category} costs the most? |
        Name the most expensive product in the {category} category. |
        highest priced product in {category} | Please find the most expensive {category} product. |
        Which is the priciest product in {category}? | what costs the most in {category}? |
        In {category}, which product is the most expensive? |
        Tell me the product with the highest price in {category}.""",
        """Which {category} product is the most expensive? |
        product with the highest price in the {category} category |
        Which {category} product costs the most? |
        What is the priciest product in the {category} category?""",
    ),
    Intent(
        "SELECT name FROM products WHERE category = '{category}' ORDER BY price LIMIT 1",
        """What is the cheapest {category} product? | cheapest product in {category} |
        least expensive {category} product | Which {category} product has the lowest price? |
        Which product in {category} costs the least? |
        Name the cheapest product in the {category} category. | lowest priced product in {category} |
        Please find the cheapest {category} product. |
        Which is the least expensive product in {category}? | what costs the least in {category}? |
        In {category}, which product is the cheapest? |
        Tell me the product with the lowest price in {category}.""",
        """Which {category} product is the cheapest? |
        product with the lowest price in the {category} category |
        Which {category} product costs the least? |
        What is the least expensive product in the {category} category?""",
    ),
    Intent(
        "SELECT name FROM products WHERE price > {price}",
        """Which products cost more than {price}? | products over {price} |
        List products that cost more than {price}. | Show all products with a price above {price}. |
        What products are more expensive than {price}? | names of products priced above {price} |
        Please list the products that cost over {price}. |
        which products have a price greater than {price}? | Everything that costs more than {price} |
        Give me the names of products above {price}. | What do we sell for more than {price}? |
        products with price over {price}""",
        """What products cost more than {price}? | list the products priced over {price} |
        Show me everything with a price above {price}. | Which products are more expensive than {price}?""",
    ),
    Intent(
        "SELECT name FROM products WHERE price < {price}",
        """Which products cost less than {price}? | products under {price} |
        List products that cost less than {price}. | Show all products with a price below {price}. |
        What products are cheaper than {price}? | names of products priced below {price} |
        Please list the products that cost under {price}. |
        which products have a price lower than {price}? | Everything that costs less than {price} |
        Give me the names of products below {price}. | What do we sell for less than {price}? |
        products with price under {price}""",
        """What products cost less than {price}? | list the products priced under {price} |
        Show me everything with a price below {price}. | Which products are cheaper than {price}?""",
    ),
    Intent(
        "SELECT name FROM products WHERE price BETWEEN {low} AND {high}",
        """Which products cost between {low} and {high}? | products between {low} and {high} |
        products from {low} to {high} | List products with a price between {low} and {high}. |
        Show everything priced from {low} to {high}. |
        What products have a price between {low} and {high}? |
        names of products that cost {low} to {high} |
        Please list the products costing between {low} and {high}. |
        What do we sell for {low} to {high}? | which products are in the price range {low} to {high}? |
        What can I buy for between {low} and {high}? |
        Give me the products that cost from {low} up to {high}.""",
        """What products cost between {low} and {high}? |
        list everything priced between {low} and {high} |
        Please show the products with a price from {low} to {high}. |
        names of products in the price range {low} to {high}""",
    ),
    Intent(
        "SELECT name FROM products ORDER BY price DESC LIMIT {top}",
        """What are the {top} most expensive products? | top {top} products by price |
        {top} most expensive products | List the {top} products with the highest price. |
        Show the {top} priciest products. | the {top} highest priced products |
        Which {top} products cost the most? | Name the {top} most expensive products we sell. |
        Please give me the top {top} products by price. | our {top} priciest products, please |
        Tell me the {top} products that cost the most. | What are our top {top} most expensive products?""",
        """Which {top} products are the most expensive? | list the {top} priciest products |
        Please show the {top} most expensive products. | Which {top} products have the highest price?""",
    ),
    Intent(
        "SELECT name FROM products WHERE stock < {stock}",
        """Which products have fewer than {stock} in stock? | products with stock below {stock} |
        stock under {stock} | List products with less than {stock} units in stock. |
        What products have a stock lower than {stock}? | Show products where the stock is below {stock}. |
        names of products with stock less than {stock} | which products are down to under {stock} units? |
        Please list products with fewer than {stock} left in stock. |
        What is low on stock, below {stock}? | Give me all products with less than {stock} in stock. |
        Which products have less than {stock} units left?""",
        """What products have fewer than {stock} units in stock? |
        list products with stock under {stock} | Which products have a stock below {stock}? |
        Please show the products with less than {stock} units left.""",
    ),
    Intent(
        "SELECT SUM(stock) FROM products WHERE category = '{category}'",
        """What is the total stock of {category} products? | total stock in {category} |
        sum of stock for {category} | How many units of {category} products are in stock in total? |
        total units in stock for {category} | What is the total stock in the {category} category? |
        Add up the stock of all {category} products. | Please give me the total stock for {category}. |
        how much stock do we have in total in {category}? |
        How many {category} units do we have in stock altogether? |
        Tell me the total stock level for {category}. | In total, how much stock is there in {category}?""",
        """What is the sum of the stock in {category}? | total stock for {category} products |
        Could you tell me the total stock of the {category} category? |
        how many units are in stock in {category} in total?""",
    ),
    Intent(
        "SELECT name FROM products WHERE category = '{category}' AND price < {price}",
        """Which {category} products cost less than {price}? | {category} products under {price} |
        {category} below {price} | List {category} products with a price below {price}. |
        Show {category} products cheaper than {price}. |
        What is there in {category} for less than {price}? |
        names of {category} products that cost under {price} |
        Please list the products in {category} that cost less than {price}. |
        cheap {category} products, under {price} |
        which products in the {category} category are cheaper than {price}? |
        What can I buy in {category} for under {price}? |
        I need something in {category} for less than {price}.""",
        """What {category} products cost less than {price}? | products in {category} under {price} |
        Please show the {category} products with a price under {price}. |
        Which {category} products are cheaper than {price}?""",
    ),
    Intent(
        "SELECT category, COUNT(*) FROM products WHERE price > {price} GROUP BY category",
        """How many products per category cost more than {price}? |
        products over {price} per category, counted |
        For each category, count the products that cost more than {price}. |
        number of products above {price} by category | Count products over {price} by category. |
        How many products above {price} does each category have? |
        In each category, how many products cost over {price}? |
        count per category of products priced above {price} |
        Please count the products above {price} for each category. |
        Per category, how many products cost more than {price}? |
        Show each category and how many of its products cost over {price}. |
        by category, how many products are over {price}?""",
        """How many products in each category cost more than {price}? |
        count of products over {price} per category |
        For each category, how many products are above {price}? |
        Please count the products over {price} by category.""",
    ),
    Intent(
        "SELECT name FROM customers WHERE city = '{city}'",
        """Which customers live in {city}? | customers in {city} | List all customers from {city}. |
        who lives in {city}? | Show me the customers in {city}. | Who are our customers in {city}? |
        names of customers from {city} | Please list the names of all customers living in {city}. |
        Which of our customers are from {city}? | Give me all customers in {city}. |
        what customers do we have in {city}? | Who buys from us in {city}?""",
        """Which customers are from {city}? | list the customers in {city} |
        Please show me who lives in {city}. | What are the names of our customers in {city}?""",
    ),
    Intent(
        "SELECT COUNT(*) FROM customers WHERE city = '{city}'",
        """How many customers live in {city}? | number of customers in {city} |
        count customers from {city} | How many customers do we have in {city}? |
        What is the number of customers in {city}? | customer count {city} |
        Please count the customers in {city}. | how many of our customers are from {city}? |
        Tell me how many customers live in {city}. | In {city}, how many customers are there? |
        Give me the number of customers from {city}. | How many people from {city} are customers?""",
        """How many customers are there in {city}? | count the customers in {city} |
        Could you tell me how many customers we have in {city}? | number of customers from {city}""",
    ),
    Intent(
        "SELECT city FROM customers WHERE name = '{customer}'",
        """Where does {customer} live? | Which city is {customer} from? | city of {customer} |
        {customer} city? | What city does {customer} live in? | Tell me the city of {customer}. |
        in which city is {customer}? | Please find the city where {customer} lives. |
        From what city is {customer}? | where is {customer} from | I need the city of {customer}. |
        What is {customer}'s city?""",
        """In which city does {customer} live? | what city is {customer} from? |
        Could you tell me where {customer} lives? | city for {customer}""",
    ),
    Intent(
        "SELECT COUNT(*) FROM customers WHERE joined LIKE '{year}%'",
        """How many customers joined in {year}? | customers joined in {year}, count |
        number of customers who joined in {year} | How many new customers did we get in {year}? |
        count new customers {year} | how many people joined in {year}? |
        What is the number of new customers in {year}? |
        Please count the customers that joined in {year}. | In {year}, how many customers joined? |
        Tell me how many customers joined us in {year}. | Count of customers who joined during {year}? |
        How many joined us as customers in {year}?""",
        """How many new customers joined in {year}? | count the customers who joined in {year} |
        Could you tell me how many new customers we got in {year}? | number of new customers in {year}""",
    ),
    Intent(
        "SELECT name FROM customers WHERE joined > '{date}'",
        """Which customers joined after {date}? | customers who joined after {date} |
        everyone who joined later than {date} | List customers that joined after {date}. |
        Who joined after {date}? | names of customers who joined later than {date} |
        Show me all customers who joined after {date}. | Please list everyone who joined after {date}. |
        who became a customer after {date}? | Give me the new customers after {date}. |
        new customers, joined after {date} | What customers joined later than {date}?""",
        """Who joined later than {date}? | list everyone who became a customer after {date} |
        What new customers joined after {date}? | Please show the customers who joined later than {date}.""",
    ),
    Intent(
        "SELECT COUNT(*) FROM orders WHERE ordered LIKE '{month}%'",
        """How many orders were placed in {month}? | orders in {month} | number of orders in {month} |
        count orders {month} | How many orders did we get in {month}? |
        What is the number of orders for {month}? | order count for {month} |
        Please count the orders in {month}. | how many orders came in during {month}? |
        In {month}, how many orders were there? | Tell me how many orders we had in {month}. |
        How many times did people order in {month}?""",
        """How many orders were there in {month}? | count the orders placed in {month} |
        Could you tell me how many orders we got in {month}? | number of orders for {month}""",
    ),
    Intent(
        f"SELECT COUNT(*) FROM {_OF_CUSTOMER} WHERE name = '{{customer}}'",
        """How many orders did {customer} place? | number of orders by {customer} |
        count orders of {customer} | How many times did {customer} order? |
        How many orders do we have from {customer}? | {customer} order count |
        Please count the orders from {customer}. | how many orders has {customer} made? |
        What is the number of orders placed by {customer}? | Tell me how many orders {customer} made. |
        How often did {customer} order from us? | orders by {customer}, how many?""",
        """How many orders has {customer} placed? | count the orders by {customer} |
        Could you tell me how many orders {customer} placed? | number of orders from {customer}""",
    ),
    Intent(
        f"SELECT SUM(quantity) FROM {_OF_PRODUCT} WHERE name = '{{product}}'",
        """How many {product} have been sold? | units sold of {product} |
        total quantity sold of the {product} | How many units of the {product} did we sell? |
        How many {product} did people order in total? | {product} units sold |
        What is the total quantity of {product} ordered? | Please add up the units sold of {product}. |
        how many {product} did customers buy? | Tell me how many {product} we sold. |
        What quantity of the {product} was sold? | total {product} sold""",
        """How many units of {product} were sold? | total units sold of the {product} |
        Could you tell me how many {product} were sold? | quantity of {product} sold in total""",
    ),
    Intent(
        f"SELECT SUM(quantity * price) FROM {_OF_PRODUCT} WHERE category = '{{category}}'",
        """What is the total revenue from {category} products? | revenue for {category} |
        total sales in {category} | How much money did we make with {category}? |
        How much did {category} products bring in? | {category} revenue |
        What revenue did the {category} category make? |
        Please work out the revenue of {category} products. | how much did we earn from {category}? |
        Tell me the total revenue in the {category} category. |
        How much money came in from {category} products? | revenue in {category}, in total""",
        """How much revenue did {category} products make? | total revenue of {category} |
        Could you tell me the revenue for the {category} category? |
        how much money did we earn with {category} products?""",
    ),
    Intent(
        f"SELECT COUNT(*) FROM {_OF_CUSTOMER} WHERE city = '{{city}}'",
        """How many orders came from {city}? | orders from {city}, how many? |
        number of orders from {city} | How many orders were placed by customers in {city}? |
        count orders from customers in {city} | How many orders did customers from {city} place? |
        What is the number of orders by customers in {city}? | Please count the orders from {city}. |
        how many times did customers in {city} order? | Tell me how many orders we got from {city}. |
        How many orders do we have from people in {city}? | order count for {city}""",
        """How many orders did we get from {city}? | count the orders by customers from {city} |
        Could you tell me how many orders came from customers in {city}? |
        number of orders placed in {city}""",
    ),
    Intent(
        f"SELECT MAX(ordered) FROM {_OF_CUSTOMER} WHERE name = '{{customer}}'",
        """When did {customer} last order? | last order date of {customer} |
        date of the latest order by {customer} | When was the last order of {customer}? |
        What is the date of {customer}'s last order? | {customer} last order? |
        Please find the date when {customer} ordered last. | when did {customer} order most recently? |
        On what date did {customer} last buy something? | most recent order date for {customer} |
        Tell me when {customer} placed the latest order. | What was the latest order date of {customer}?""",
        """When was the latest order by {customer}? | date of the last order from {customer} |
        Could you tell me when {customer} last ordered? |
        What is the most recent order date of {customer}?""",
    ),
    Intent(
        "SELECT name FROM customers WHERE city = '{city}' AND id NOT IN (SELECT customer_id FROM orders)",
        """Which customers in {city} have never ordered? | customers in {city} without orders |
        no orders yet in {city}: who? | List customers from {city} who never placed an order. |
        Who in {city} has never ordered anything? | Show the customers in {city} that have no orders. |
        names of customers from {city} with no order |
        Please list everyone in {city} who has not ordered yet. |
        which {city} customers never bought anything? |
        Give me the customers living in {city} without a single order. |
        Who lives in {city} but never ordered? | What customers from {city} have not placed any order?""",
        """Which customers from {city} never ordered anything? |
        list the customers in {city} with no orders | Who in {city} has not placed an order yet? |
        Please show the customers from {city} without any orders.""",
    ),
)
"""Every kind of question, in a fixed order."""
